"""From image and mask files to the manifest, splits and packed arrays of samples."""
