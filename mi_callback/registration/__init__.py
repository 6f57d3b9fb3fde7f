"""Is it the same anatomy? Images are aligned and compared place by place."""
