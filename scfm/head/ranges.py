"""Numbers of a head's config that have to lie in a range."""


def check_positive(**values: float) -> None:
    """Refuse numbers of the config that must be above 0.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"head.{name}={value}; expected a number above 0")


def check_not_negative(**values: float) -> None:
    """Refuse weights of the config below 0.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"head.{name}={value}; expected a weight, 0 or more")


def check_shares(**values: float) -> None:
    """Refuse shares of the config outside 0 to 1.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"head.{name}={value}; expected a share, 0 to 1")


def check_proper_shares(**values: float) -> None:
    """Refuse shares of the config outside 0 to 1, and 1 itself: something has to be left.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"head.{name}={value}; expected a share, 0 <= {name} < 1")
