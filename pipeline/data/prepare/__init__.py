"""All of it in one pass: read, understood, tokenized, split, accounted for, and kept on the disk for the next run.

In comes the section `data` of a stage, out come two tables and an Account. No row is lost:
read = trained + held out + dropped.
"""
