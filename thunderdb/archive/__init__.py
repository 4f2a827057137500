"""The log archive: object stores, the archiver, what an archive holds, what may go."""
