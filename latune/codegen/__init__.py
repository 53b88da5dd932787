"""From a search space to a kernel: YAML -> space -> config; problem + plan -> source -> binary and module."""
