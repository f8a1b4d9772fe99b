"""The command `push`: publish a trained student, or an export, on the Hugging Face Hub."""

from __future__ import annotations

import re
from typing import Any

from aft.commands.checks import EXPORT, check, pushed_folder
from aft.config.commands import PushConfig
from aft.config.typed import command
from aft.exporting.card import CARD, list_files, make_card
from aft.hub import upload
from aft.students.saved import DESCRIPTION, check_student


@command(PushConfig)
def push(config: PushConfig) -> dict[str, Any]:
    """Publish a trained student, or an export, on the Hugging Face Hub; RUN and REPO come first.

    Returns:
        ``repo``; ``files``, the number of files; ``commit``, the address of the commit; ``load``,
        what :func:`aft.load_student` takes, for a student.

    Raises:
        AftError: If there is nothing to push, the files are damaged, there is no token, or the Hub
            cannot be reached or refuses.
    """
    check(config)
    folder = pushed_folder(config.run)
    is_student = not (folder / EXPORT).is_file()
    address = f"hf://{config.repo}" + (f"@{config.revision}" if config.revision else "")
    check_student(folder, DESCRIPTION if is_student else EXPORT)
    files: dict[str, Any] = dict(list_files(folder))
    if is_student:
        card = folder / CARD
        text = card.read_text("utf-8") if card.exists() else make_card(folder, folder)
        # A student that comes from the Hub is named by its address there.
        source = re.escape(str(config.run).partition("@")[0].replace("hf:/", "hf://"))
        here = rf'(?<=aft\.load_student\(")(\.|{source}(@[^"]*)?)(?="\))'
        files[CARD] = re.sub(here, lambda _: address, text).encode()
    options = config.model_dump(include={"private", "revision", "message"})
    commit = upload(config.repo, files, **options)
    pushed = {"repo": config.repo, "files": len(files), "commit": commit}
    return pushed | ({"load": address} if is_student else {})
