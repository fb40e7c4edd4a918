"""Print a completion script.

bash:  qemushim completion bash > ~/.local/share/bash-completion/completions/qemushim
zsh:   qemushim completion zsh > ~/.zfunc/_qemushim      (with ~/.zfunc in $fpath)
tcsh:  qemushim completion tcsh >> ~/.cshrc"""

from __future__ import annotations

import argparse

EPILOG = """\
examples:
  source <(qemushim completion bash)            for this shell

exit codes: 0, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(options: argparse.Namespace) -> int:
    import shtab

    from qemushim.cli import overview_parser

    print(shtab.complete(overview_parser(complete=True), shell=options.shell))
    return 0
