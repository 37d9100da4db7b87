"""`python -m optimizer` is the command line."""

from optimizer.cli.main import main

if __name__ == "__main__":
    main()
