"""`python -m thunderdb` is the `thunderdb` command."""

from thunderdb.server.cli import main

if __name__ == "__main__":
    main()
