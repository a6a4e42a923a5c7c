"""A Spec compiled and run.

model              Model: compiled once, called from any thread
recurrent, attention_decoder, control_flow   running one node of each kind;  packing  its weights for the kernels
arguments          what a caller passes becomes what kernels expect, or one clear error
state              what a recurrent network carries, and its bytes
budget             what a call costs, and the limits that a caller sets
threads, config    how many threads; what runs on this machine
extensions         methods of Model whose code is in packages that use it
"""
