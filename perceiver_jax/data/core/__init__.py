"""Sources, mixtures and the Grain pipeline that every modality shares."""
