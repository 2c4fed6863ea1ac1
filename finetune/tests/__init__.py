"""Tests that need what fine-tuning needs: `make test` runs them in `.venv-finetune`."""
