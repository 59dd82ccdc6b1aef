# SPDX-License-Identifier: Apache-2.0
"""The official command line, but for running apps."""
import re
from pathlib import Path

APPS = Path(__file__).parent / "apps"


def test_token_set_verifies_and_info_tells_who_one_is(proa, tmp_path):
    settings = proa.settings()
    config = tmp_path / "modal.toml"
    env = {"MODAL_CONFIG_PATH": str(config)}
    done = proa.modal("token", "set", "--token-id", settings["MODAL_TOKEN_ID"], "--token-secret",
                      settings["MODAL_TOKEN_SECRET"], "--verify", env=env)
    assert done.status == 0, done
    assert settings["MODAL_TOKEN_ID"] in config.read_text()
    info = proa.modal("token", "info")
    assert info.status == 0, info
    assert settings["MODAL_TOKEN_ID"] in info.out, info


def test_a_wrong_token_is_refused_with_a_sentence(proa):
    done = proa.modal("app", "list", env={"MODAL_TOKEN_SECRET": "as-wrong"})
    assert done.status != 0
    assert "oken" in done.out + done.err, done
    assert done.seconds < 20


def test_environments_are_made_listed_and_deleted(proa):
    assert proa.modal("environment", "create", "staging").status == 0
    names = [row.get("name", row.get("Name")) for row in proa.json("environment", "list")]
    assert "staging" in names and "main" in names, names
    again = proa.modal("environment", "create", "staging")
    assert again.status != 0 and "staging" in again.out + again.err, again
    deleted = proa.modal("environment", "delete", "staging", "--yes")
    assert deleted.status == 0, deleted
    assert "staging" not in str(proa.json("environment", "list"))


def test_secrets_are_made_listed_and_deleted(proa):
    made = proa.modal("secret", "create", "keys-of-test", "ALPHA=one", "BETA=two words")
    assert made.status == 0, made
    assert "keys-of-test" in str(proa.json("secret", "list"))
    assert proa.modal("secret", "create", "keys-of-test", "ALPHA=three").status != 0
    assert proa.modal("secret", "create", "keys-of-test", "ALPHA=three", "--force").status == 0
    assert proa.modal("secret", "delete", "keys-of-test", "--yes").status == 0
    assert "keys-of-test" not in str(proa.json("secret", "list"))


def test_apps_are_deployed_listed_their_logs_read_and_stopped(proa):
    assert proa.modal("deploy", str(APPS / "basic.py"), "--name", "listed").status == 0
    call = "import modal; print(modal.Function.from_name('listed', 'talk').remote('for the log'))"
    assert "FOR THE LOG" in proa.python(call).out
    rows = proa.json("app", "list")
    (row,) = [row for row in rows if row["description"] == "listed" and row["state"] == "deployed"]
    app_id = re.search(r"ap-[0-9A-Za-z]{22}", str(row)).group()
    history = proa.modal("app", "history", "listed")
    assert history.status == 0 and "v1" in history.out, history
    logs = proa.modal("app", "logs", app_id, timeout=60)
    assert "stdout says for the log" in logs.out, logs
    containers = proa.json("container", "list")
    assert any(app_id in str(row) for row in containers), containers
    task_id = re.search(r"ta-[0-9A-Z]{26}", str([row for row in containers if app_id in str(row)][0])).group()
    of_container = proa.modal("container", "logs", task_id, timeout=60)
    assert "stdout says for the log" in of_container.out, of_container
    assert proa.modal("container", "stop", task_id, "--yes").status == 0
    stopped = proa.modal("app", "stop", "listed", "--yes")
    assert stopped.status == 0, stopped
    gone = proa.python(call)
    assert gone.status != 0 and "listed" in gone.err, gone


def test_detached_runs_go_on_after_the_client_has_left(proa):
    done = proa.modal("run", "--detach", f"{APPS / 'basic.py'}::talk", "--text", "detached")
    assert done.status == 0, done
    assert "stdout says detached" in done.out + done.err
