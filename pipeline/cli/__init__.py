"""What can I ask for? Each file a group of commands, each command a few lines over the rooms below."""
