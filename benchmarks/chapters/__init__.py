"""How each benchmark is shown: per file ``TITLE``, ``tables(result)`` and, where there is one, ``picture(result)``."""
