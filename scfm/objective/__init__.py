"""What a backbone is pretrained on."""
