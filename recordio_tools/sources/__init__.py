"""Sets from what is not RecordIO yet: folders, verification packs, the ORL faces, drawn faces; none is changed here."""
