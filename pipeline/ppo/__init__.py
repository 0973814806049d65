"""PPO, which TRL no longer has: policy, reference, reward and value are four adapters on one frozen base.

`arithmetic` knows neither trainer nor model; `roles` knows the adapters; `schedule` tells what is due, `experience` makes
what is trained on, `trainer` trains on it, `checkpoint` keeps it. The rest of the engine knows of it only the config, the
roles, the reward and the trainer.
"""
