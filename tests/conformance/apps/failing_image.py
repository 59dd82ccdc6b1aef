import modal

app = modal.App("failing-image", image=modal.Image.debian_slim().run_commands("echo about to fail && exit 7"))


@app.function()
def never():
    pass
