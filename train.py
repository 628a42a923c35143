"""The same as ``scfm-train``: see configs/train.yaml and --help."""

from scfm.cli import train

if __name__ == "__main__":
    train()
