"""Images that show one anatomy in different contrasts."""
