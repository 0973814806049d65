"""What is it trained on? Files become rows (read), rows examples (shapes), examples token ids (tokens), and all of it
together one table on the disk with every row accounted for (prepare).

It does not know recipes beyond their section `data`, nor models beyond a tokenizer.
"""
