"""PPO, which TRL no longer has: policy, reference, reward and value are four adapters on one frozen base.

`arithmetic` knows neither trainer nor model; `roles` knows the adapters; `trainer` puts them to work. The rest of the engine
knows of it only the config, the roles and the trainer.
"""
