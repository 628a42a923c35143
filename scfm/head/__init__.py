"""What a pretrained backbone is fine-tuned for."""
