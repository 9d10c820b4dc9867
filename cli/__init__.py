"""How a person at a terminal asks and is answered. Understands words and draws answers; decides nothing."""
