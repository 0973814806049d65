"""An OpenAI-compatible server: `bodies` is what it takes, `replies` what it says, `app` the way between them."""
