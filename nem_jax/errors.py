"""Which errors are told in one sentence: the user's, and those of the machine that a user can do something about."""


def sentence(error: Exception) -> str | None:
    """What to say of an error, without its traceback; None: that is needed."""
    text = " ".join(str(error).split())  # libraries spread theirs over lines
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return text
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in text:
        return (
            f"a device has too little memory, {text}: training.num_microbatches and training.remat save some of a "
            "training's, and an interrupted run resumes with them; smaller batches and fewer draws take less, too"
        )
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in text:
        return text
    return None
