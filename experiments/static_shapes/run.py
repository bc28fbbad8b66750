"""Train and score a configuration of static shapes; config.py shows the command."""

from experiments.launcher import main

if __name__ == "__main__":
    main("static_shapes")
