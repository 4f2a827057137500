"""What everything stands on: errors, ids, codecs, units, configuration, events. Imports nothing of ours."""
