"""Train and score a configuration of flying shapes; config.py shows the command."""

from experiments.launcher import main

if __name__ == "__main__":
    main("flying_shapes")
