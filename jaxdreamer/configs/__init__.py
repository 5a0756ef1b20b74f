"""What one may train, a file each: `base` holds every option, the others change it. `configs` in a checkout is this folder."""
