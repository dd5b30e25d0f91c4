"""The parts of the one training loop: policy, stopping rule, state, callbacks."""
