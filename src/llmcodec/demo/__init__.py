"""A page on this machine to hear codecs on one's own voice; `studio` does the work, `app` draws it with Gradio."""
