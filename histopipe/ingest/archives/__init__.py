"""Reading archives where they lie: members, links and bounds; nothing is ever unpacked."""
