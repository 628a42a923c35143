"""The token store on disk: its layout, its writer, its readers."""
