"""The steps, oldest first. A step is never changed once it was released; the next one gets the next number."""
