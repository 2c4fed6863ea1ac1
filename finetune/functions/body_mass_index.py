def body_mass_index(weight_kg: float, height_cm: float) -> float:
    """Work out the body mass index of a person.

    Args:
        weight_kg: The weight in kilograms.
        height_cm: The height in centimetres.
    """
    return round(weight_kg / (height_cm / 100) ** 2, 1)
