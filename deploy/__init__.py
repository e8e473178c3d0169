"""What runs Sundial on one machine: installer, embedded servers, demo upstream, LiteLLM configuration."""
