"""What happens to the pixels of an image, and how the microscope forms it."""
