"""The page in the browser: `difftalk animate` for someone who has a face, a sound and a mouse."""
