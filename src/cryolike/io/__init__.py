"""Files of other programs: STAR, cryoSPARC and MRC readers, and where their images are."""
