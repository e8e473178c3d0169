"""The demo upstream: OpenAI's API with canned answers and true token counts. For `make up` and tests only."""
