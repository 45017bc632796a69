"""`python -m blindsr`: the command line."""

from blindsr.cli.root import main

if __name__ == "__main__":
    main()
