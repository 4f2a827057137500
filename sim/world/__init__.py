"""The world that breaks: time, chance, disks, stores, networks, and the nodes on them. It knows no scenario and no oracle."""
