"""The engine. One folder answers one question, and stands on the folders below it:

    cli        what can I ask for?
    use        what can I do with it?
    run        who does it?
    console    what do I see?
    train      how is a stage done?
    ppo        the training loop that is ours
    plan       what would be done, and why?
    reward     what is a response worth?
    evaluate   was it worth it?
    model      what is trained?
    recipe     what does a person write?
    data       what is it trained on?
    artifact   what is kept?    (and hub: what lies elsewhere)
    errors, section, stage, wording: the ground

A recipe is read, planned, and run stage by stage, each in a process of its own. tests/test_floors.py holds the order.
"""
