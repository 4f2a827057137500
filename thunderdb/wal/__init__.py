"""The log: records, segments, the writer with group commit, the reader that knows a torn tail from a hole."""
