"""The same as ``scfm-finetune``: see configs/finetune.yaml and --help."""

from scfm.cli import finetune

if __name__ == "__main__":
    finetune()
