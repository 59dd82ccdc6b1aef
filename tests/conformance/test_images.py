# SPDX-License-Identifier: Apache-2.0
"""Images as code: what each builder method promises, seen from inside."""
from pathlib import Path

APPS = Path(__file__).parent / "apps"


def test_every_builder_method_does_what_it_says_and_layers_are_cached(proa):
    first = proa.modal("run", str(APPS / "images.py"), timeout=290)
    assert first.status == 0, first
    assert "pip 1.17.0" in first.out
    assert "uv 2.0.0" in first.out
    assert "apt tree v" in first.out
    assert "'made': 'made by a command\\n'" in first.out
    assert "'cwd': '/srv/data'" in first.out and "'file': 'deep\\n'" in first.out
    assert "it\\'s \"quoted\" $HOME" in first.out or "it's \"quoted\" $HOME" in first.out.replace("\\'", "'"), first
    assert "'secret': 'in the container only'" in first.out
    assert "files ['a note\\n', ['one.txt', 'two.txt']]" in first.out
    again = proa.modal("run", str(APPS / "images.py"))
    assert again.status == 0, again
    assert "Building image" not in again.out + again.err, again


def test_a_failing_command_fails_the_build_with_its_output_and_status(proa):
    done = proa.modal("run", str(APPS / "failing_image.py"))
    assert done.status != 0
    everything = done.out + done.err
    assert "about to fail" in everything, done
    assert "7" in everything and "exit 7" in everything, done
