"""How many workers a demand takes, from what campaigns measured."""
