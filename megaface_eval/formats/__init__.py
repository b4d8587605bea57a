"""Other people's file formats: MegaFace's devkit, verification packs; no protocol or report is known here."""
