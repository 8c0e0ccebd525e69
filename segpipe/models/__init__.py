"""Networks: encoder, neck, decoder, head, final upsampling. These modules need torch and torchvision only."""
