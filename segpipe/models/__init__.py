"""Networks: five parts, one ladder. Only torch and torchvision are needed here."""
