"""Proximal policy optimization on one frozen base with four adapters: TRL has no PPO trainer any more."""
