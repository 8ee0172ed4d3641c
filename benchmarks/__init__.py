"""Speed and memory, both sides in one run; the JSON files under results/ are the evidence."""
