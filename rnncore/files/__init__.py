"""Files and text from outside, read strictly; files written whole.

cursor       bytes read in order, each length checked
zip_reader   zip archives within a budget
strict_json  JSON without duplicate keys, deep nesting or numbers that are none
atomic       a file is there whole, or not at all
"""
