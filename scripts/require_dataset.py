"""Exits with 2 and one line, in seconds, if a dataset is not there: what is missing and how to get it.

python scripts/require_dataset.py dataset=tcga_subtypes [further overrides]

Of a sweep the first job's dataset is looked for.
"""

import sys

from multimodal_loss.configuration import RunConfig, compose_config, first_job
from multimodal_loss.errors import UserError
from multimodal_loss.training.run import make_dataset


def main(overrides: list[str]) -> int:
    try:
        make_dataset(RunConfig.parse(compose_config(first_job(overrides))))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
